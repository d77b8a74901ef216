"""Tables and pictures of finished runs. Reads files and plain JSON; knows nothing of training or studies."""
