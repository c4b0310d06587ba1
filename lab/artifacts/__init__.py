"""What a trained arm leaves: adapter, contract, exported checkpoint."""
