"""What the kinds of databases share: the fence, credentials, patience with a silent server, which server it is."""
