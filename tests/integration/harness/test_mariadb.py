"""A private MariaDB is private: it touches nothing of another server's."""

from contextlib import closing
from pathlib import Path

from harness.stack.mariadb import PrivateMariaDB


def temporary_folder(server: PrivateMariaDB) -> Path:
    """Return where a server keeps its temporary tables."""
    with closing(server.root()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@tmpdir")
        ((folder,),) = cursor.fetchall()
    return Path(folder)


def test_a_starting_server_leaves_the_temporary_tables_of_others_alone(mariadb: PrivateMariaDB) -> None:
    """A starting server deletes every #sql* file of its temporary folder, and two demos break each other."""
    mark = temporary_folder(mariadb) / "#sql-house.MAI"
    mark.touch()
    try:
        with PrivateMariaDB(max_connections=5) as another:
            assert temporary_folder(another).is_relative_to(another.folder)
            assert mark.exists()
    finally:
        mark.unlink(missing_ok=True)
