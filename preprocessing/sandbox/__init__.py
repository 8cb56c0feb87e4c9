"""The decoding process: it prepares slow pictures, is limited in time and memory, and can be killed."""
