"""How Tidegate is run and shown: the demo here, `prefect.yaml` beside it for work pools."""
