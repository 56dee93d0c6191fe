"""The few ways in which models write calls and thoughts. Families are tables over these (`families.py`)."""
