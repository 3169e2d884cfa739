"""Commands of older systems, which become settings of ours: the first release, and OpenDiT's Open-Sora."""
