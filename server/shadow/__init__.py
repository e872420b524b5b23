"""Shadow traffic: calls that another server answered, mirrored here, are scored while there is nothing else to do."""
