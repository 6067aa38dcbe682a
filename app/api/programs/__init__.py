"""The programs: `/programs`, their revisions and definitions by version."""
