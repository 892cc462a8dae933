"""The provenance of a result: receipts, staleness, digests of code, audit, crate."""
