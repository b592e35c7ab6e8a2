"""The parts of an answer, each a model of its own: downloader, preprocessor, classifier, and `classy`, all of them."""
