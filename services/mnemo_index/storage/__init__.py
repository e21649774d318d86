"""What the index borrows from the machine: the encoder's files, FAISS, snapshots on disk."""
