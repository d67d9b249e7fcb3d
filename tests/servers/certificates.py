"""Certificates of a test's own authority, as files, for as long as a test lasts."""

import ssl

import trustme


class Certificates:
    """An authority, and what it has signed.

    Args:
        folder: Where the files go.
    """

    def __init__(self, folder):
        self._folder = folder
        self._authority = trustme.CA()
        self.authority = str(folder / "authority.pem")
        self._authority.cert_pem.write_to_path(self.authority)

    def issue(self, *names):
        """Sign a certificate for host names or addresses; return its file and its key's."""
        made = self._authority.issue_cert(*names)
        certificate = self._folder / f"{names[0]}.pem"
        key = self._folder / f"{names[0]}.key"
        made.private_key_pem.write_to_path(str(key))
        certificate.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
        return str(certificate), str(key)

    def trusting(self):
        """Return a context that trusts this authority alone."""
        return ssl.create_default_context(cafile=self.authority)
