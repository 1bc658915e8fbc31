"""Sources of data, from files to batches: tokenizers, corpora, shards, orders, windows."""
