"""Measurements of this project, alone and beside its peers; most use random models of real shapes."""
