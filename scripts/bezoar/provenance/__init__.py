"""What a result rests on: receipts, staleness, digests of code, audit, crate."""
