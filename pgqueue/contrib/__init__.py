"""One room per library whose connections can carry an enqueue; each is loaded only when its library is."""
