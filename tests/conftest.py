"""Settings of the whole suite."""

import hypothesis

hypothesis.settings.register_profile(
    "suite", deadline=None, derandomize=True, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("suite")
