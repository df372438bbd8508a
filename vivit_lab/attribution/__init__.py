"""Attribution methods: each reduces a model and a clip to an AttributionMap."""
