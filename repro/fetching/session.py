"""HTTP as this machine does it: proxy, certificates and headers of the site file, else of apt and pip."""

from __future__ import annotations

from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import should_bypass_proxies
from urllib3.util.retry import Retry

from repro.fetching.site import Whereabouts

_RETRIES = Retry(total=3, connect=1, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504), raise_on_status=False)


class _Session(requests.Session):
    """A session whose own proxies and certificates go before the environment's; requests has it the other way round.

    NO_PROXY counts for both.
    """

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        direct = should_bypass_proxies(str(url), no_proxy=None)
        if verify is None and isinstance(self.verify, str):
            verify = self.verify
        asked = {**({} if direct else self.proxies), **(proxies or {})}
        merged = super().merge_environment_settings(url, asked, stream, verify, cert)
        if direct:
            merged["proxies"] = asked  # requests adds the session's own proxies whatever NO_PROXY says
        return merged


def http_session(where: Whereabouts) -> requests.Session:
    """A session for this machine's sources; the environment's proxies count where no configuration names one."""
    session = _Session()
    adapter = HTTPAdapter(max_retries=_RETRIES, pool_maxsize=8)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.headers.update(where.site.headers)
    if where.site.proxy:
        session.proxies.update({"http": where.site.proxy, "https": where.site.proxy})
    else:
        session.proxies.update(where.apt.proxies)
        if where.pip.proxy:
            session.proxies.setdefault("https", where.pip.proxy)
    certificates = where.site.ca or where.pip.ca or where.apt.ca
    if certificates:
        session.verify = certificates
    return session
