"""Hours in small: clients, queues and connections come and go, and nothing of them may stay."""
