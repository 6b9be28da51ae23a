"""What a worker uses: acquires a lease, opens a connection under it, keeps it warm, releases it."""
