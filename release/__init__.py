"""What turns a checkout into something to be released: packages, their checks, and the documents as pages."""
