"""Hold what the standard library lacks, for a project without any network as well."""
