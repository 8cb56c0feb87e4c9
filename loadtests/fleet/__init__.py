"""Three replicas behind HAProxy: what the balancer costs, and what becomes of requests when a replica fails."""
