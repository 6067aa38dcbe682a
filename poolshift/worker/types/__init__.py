"""Types of inputs and outputs beyond the six of a signature: JSON Schemas, annotations, objects of known libraries.

msgspec alone is imported. jsonschema-rs is imported for a signature that has a JSON Schema, pydantic by the programs
that use it.
"""
