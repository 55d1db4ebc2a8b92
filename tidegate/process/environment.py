"""Which variables of our environment a child gets: those of an allow-list, never all of them. Pure.

`child.spawn` asks for every tool. Our own environment may hold keys of clouds, the address of the ledger with its
password, tokens of a build; a tool that parses hostile bytes has no use for them. Nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

EVERY_CHILD: dict[str, tuple[str, ...]] = {
    "where programs and their own files are": (
        *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TMP", "TEMP"),
        *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "NIX_LD", "NIX_LD_LIBRARY_PATH"),
        *("FONTCONFIG_FILE", "FONTCONFIG_PATH"),
    ),
    "language, time zone": ("LANG", "LANGUAGE", "LC_*", "LOCALE_ARCHIVE", "LOCPATH", "TZ", "TZDIR"),
    "graphics processors: which one, which driver": (
        *("CUDA_*", "NVIDIA_*", "GPU_*", "HIP_*", "HSA_*", "ROCR_*", "ZE_*", "ONEVPL_*", "MFX_*", "LIBVA_*", "VDPAU_*"),
        *("DRI_*", "MESA_*", "LIBGL_*", "VK_*", "OCL_*", "__NV_*", "__GLX_*", "__EGL_*", "INTEL_MEDIA_RUNTIME"),
    ),
    "how much memory and how many threads a library takes": ("MALLOC_*", "GLIBC_TUNABLES", "OMP_*", "NO_COLOR"),
}
"""Why → names; a `*` stands for any rest. FFREPORT and LD_PRELOAD are not among them: the first makes ffmpeg write a
file, the second puts somebody's code into it."""

ON_THE_NETWORK: dict[str, tuple[str, ...]] = {
    "the way out; it may hold a password, so only who goes out gets it": (
        *("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"),
        *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"),
    ),
    "certificates of a company": (
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
        "NIX_SSL_CERT_FILE",
    ),
    "name lookups": ("RES_OPTIONS", "LOCALDOMAIN", "HOSTALIASES"),
    ".NET, in which TwitchDownloaderCLI is written": ("DOTNET_*", "COMPlus_*", "CLR_*"),
}

CERTIFICATES = ON_THE_NETWORK["certificates of a company"]


def child_environment(ours: Mapping[str, str], *, network: bool, more: Iterable[str] = ()) -> dict[str, str]:
    """What of `ours` a child gets. `more`: further names or patterns, as a person has set them."""
    reasons = [*EVERY_CHILD.values(), *(ON_THE_NETWORK.values() if network else ())]
    patterns = [*(pattern for names in reasons for pattern in names), *more]
    exact = {pattern for pattern in patterns if "*" not in pattern}
    open_ended = [pattern for pattern in patterns if "*" in pattern]
    return {
        name: value
        for name, value in ours.items()
        if name in exact or any(fnmatchcase(name, pattern) for pattern in open_ended)
    }
