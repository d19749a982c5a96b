"""What a run is: the documented schema, and YAML that becomes it or says why not. Imports no torch."""
