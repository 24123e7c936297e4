"""What clients are told of the API: each route and frame with its fields, responses and errors, for documents."""
