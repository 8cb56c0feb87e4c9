"""What a picture's file is made of, read in one bounded pass before any decoder sees it, one module a format.

Decoders repeat, allocate and inflate whatever a file tells them to. Each module here counts what its format may repeat,
refuses what no camera, scanner or viewer writes, and keeps only the parts that the pixels are decoded from: comments,
colour profiles and text never reach a decoder.
"""
