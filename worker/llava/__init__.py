"""Everything particular to LLaVA: image and question in, embeddings out; knows no engine and no jobs."""
