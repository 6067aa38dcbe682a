"""Who may do what, asked of a real service with real keys."""
