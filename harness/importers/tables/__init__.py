"""Tables and JSON: records with named fields."""
