"""The decoding process: slow pictures are prepared in a process that is limited in time and memory and can be killed."""
