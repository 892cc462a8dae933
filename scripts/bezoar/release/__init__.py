"""What a finished run publishes on the hub: contents, licences and the upload."""
