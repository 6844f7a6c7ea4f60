"""Side-by-side measurements of this engine and its peers on random-weight models of real shapes."""
