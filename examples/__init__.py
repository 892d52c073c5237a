"""Two programs that use pgqueue for real work; `pgqueue demo` runs both."""
