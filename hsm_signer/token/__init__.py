"""The secure environment: the only room that imports PKCS#11."""
