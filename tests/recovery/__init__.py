"""What happens after something died. A package, so that its site ends with the last of its tests."""
