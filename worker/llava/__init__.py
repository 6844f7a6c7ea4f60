"""Everything particular to LLaVA-NeXT: image and question in, embeddings out; knows no engine and no jobs."""
