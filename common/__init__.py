"""Small tools that several rooms of the service share."""
