"""Small tools that several folders of the service share."""
