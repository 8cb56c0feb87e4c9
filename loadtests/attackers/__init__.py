"""Hostile clients, a file a kind: coroutines that attack one server on this machine until they are cancelled."""
