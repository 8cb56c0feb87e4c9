"""`make fuzz`: a real server among hostile pictures and hostile clients, with another client beside them."""
