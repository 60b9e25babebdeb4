"""What this repository runs and no exported bundle carries; only scripts/ and the app import it."""
