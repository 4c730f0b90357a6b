"""An AWS stand-in for tests: moto, and what moto leaves out. See README.md beside this package."""
