"""From a catalogue of products to questions about their pictures: asked of a language model, checked, split and written down."""
