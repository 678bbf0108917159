"""Public task formats: rows read, recognised by their keys, and made tasks; malformed rows are named one by one."""
