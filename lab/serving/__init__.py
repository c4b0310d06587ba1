"""`lab serve`: finished runs behind HTTP, each asked as `lab predict` asks it, all adapters of a checkpoint over one base in memory.

    served      a run that can be asked: its contract, its encoder, its adapter's layers
    batching    the queue, and the one thread that puts an adapter on the base, asks a batch of its questions, and takes it off
    pieces      written tokens as pieces of text that join to the whole
    protocol    requests and replies of the OpenAI protocol
    app         routes
    guard       what a request must pass before a route sees it: Host, token, size, time
    connections what a connection must do to stay open
    metrics     counts for Prometheus
"""
