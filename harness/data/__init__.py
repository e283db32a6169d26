"""Documents, tokenizers and the cached token stream that every text task trains on."""
