"""The codecs that are accepted as media, and which decoders may open them: one table for both.

ffmpeg and the probe child are given the decoders (`-codec_whitelist`), `inspect` refuses by name what is not in the
table; so nothing is accepted that could not be opened, and nothing opened that is not accepted. What cameras,
recorders, broadcasters, discs, sites and phones wrote in thirty years is in it. What games, still pictures of offices,
text terminals and demo scenes wrote is not: nobody looks after those decoders, and a file can name any of them.
"""

from __future__ import annotations

FILM = (
    *("h261", "h263", "h263i", "h263p", "h264", "hevc", "vvc", "evc", "av1", "apv", "flv1", "flashsv", "flashsv2"),
    *("mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "mjpeg", "mjpegb", "ljpeg", "mxpeg"),
    *("wmv1", "wmv2", "wmv3", "wmv3image", "vc1", "vc1image", "mss1", "mss2", "mts2", "msa1"),
    *("vp3", "vp4", "vp5", "vp6", "vp6a", "vp6f", "vp7", "vp8", "vp9", "theora", "dirac", "snow"),
    *("rv10", "rv20", "rv30", "rv40", "rv60", "svq1", "svq3", "cinepak", "indeo2", "indeo3", "indeo4", "indeo5"),
    *(
        "cavs",
        "avs2",
        "avs3",
        "sp5x",
        "amv",
        "ipu",
        "clearvideo",
        "truemotion1",
        "truemotion2",
        "prosumer",
        "ulti",
        "vcr1",
        "wnv1",
    ),
    # Cameras and cutting rooms:
    *("dvvideo", "dnxhd", "prores", "prores_raw", "cfhd", "hap", "speedhq", "magicyuv", "notchlc", "pixlet", "aic"),
    *(
        "hq_hqa",
        "hqx",
        "cllc",
        "media100",
        "dxv",
        "vbn",
        "mvc1",
        "mvc2",
        "avui",
        "avrn",
        "avrp",
        "mvdv",
        "vmix",
        "fic",
        "imm4",
        "imm5",
    ),
    *("jpeg2000", "jpegls", "jpegxs", "dpx", "sheervideo", "cri", "mimic", "asv1", "asv2", "aura", "aura2", "vixl"),
    # Lossless, and with nothing done to it at all:
    *("ffv1", "huffyuv", "ffvhuff", "hymt", "utvideo", "lagarith", "vble", "loco", "mszh", "zlib", "ylc", "zerocodec"),
    *("rawvideo", "v210", "v210x", "v308", "v408", "v410", "r210", "r10k", "y41p", "yuv4", "012v", "cljr", "cyuv"),
    *("bitpacked", "m101", "lead", "nuv", "qtrle", "msrle", "msvideo1", "smc", "rpza", "8bps", "targa_y216"),
    # Recorders of screens, and lessons:
    *(
        "tscc",
        "tscc2",
        "gif",
        "apng",
        "cscd",
        "zmbv",
        "fraps",
        "dxtory",
        "g2m",
        "rscc",
        "screenpresso",
        "scpr",
        "fmvc",
        "wcmv",
        "mwsc",
    ),
    *("tdsc", "mscc", "frwu", "srgc", "kgv1", "xwd", "mvha", "vmnc", "aasc", "png", "rasc", "lscr", "qpeg"),
)
"""`png`: screen recordings in MOV and AVI are made of it."""

SOUND = (
    *("aac", "aac_latm", "mp1", "mp2", "mp3", "mp3adu", "mp3on4", "mp4als", "ac3", "eac3", "ac4", "dts"),
    *("truehd", "mlp", "dolby_e", "opus", "vorbis", "speex", "celt", "flac", "alac", "ape", "tta", "wavpack", "tak"),
    *("shorten", "ralf", "wmav1", "wmav2", "wmapro", "wmavoice", "wmalossless", "xma1", "xma2", "cook", "sipr"),
    *("ra_144", "ra_288", "atrac1", "atrac3", "atrac3al", "atrac3p", "atrac3pal", "atrac9", "qdm2", "qdmc", "mace3"),
    *("mace6", "qcelp", "evrc", "amr_nb", "amr_wb", "gsm", "gsm_ms", "ilbc", "g723_1", "g728", "g729", "siren"),
    *("msnsiren", "codec2", "lc3", "sbc", "aptx", "aptx_hd", "iac", "imc", "nellymoser", "truespeech", "metasound"),
    *("twinvq", "musepack7", "musepack8", "dst", "osq", "bonk", "dss_sp", "avc", "s302m", "dvaudio", "mpegh_3d_audio"),
    *("dsd_lsbf", "dsd_lsbf_planar", "dsd_msbf", "dsd_msbf_planar", "comfortnoise", "acelp.kelvin", "ftr"),
    *("adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "adpcm_g722", "adpcm_g726", "adpcm_g726le", "adpcm_yamaha"),
    *("adpcm_swf", "adpcm_ima_amv", "adpcm_ct", "adpcm_sanyo", "adpcm_sbpro_2", "adpcm_sbpro_3", "adpcm_sbpro_4"),
    *("adpcm_ima_oki", "adpcm_ima_dk3", "adpcm_ima_dk4", "adpcm_ima_xbox"),
    *("pcm_alaw", "pcm_mulaw", "pcm_bluray", "pcm_dvd", "pcm_vidc", "pcm_lxf", "pcm_s24daud", "pcm_u8"),
    *("pcm_s8", "pcm_s8_planar", "pcm_s16be", "pcm_s16be_planar", "pcm_s16le", "pcm_s16le_planar", "pcm_u16be"),
    *("pcm_u16le", "pcm_s24be", "pcm_s24le", "pcm_s24le_planar", "pcm_u24be", "pcm_u24le", "pcm_s32be", "pcm_s32le"),
    *("pcm_s32le_planar", "pcm_u32be", "pcm_u32le", "pcm_s64be", "pcm_s64le", "pcm_f16le", "pcm_f24le", "pcm_f32be"),
    *("pcm_f32le", "pcm_f64be", "pcm_f64le"),
)

COVER = ("mjpeg", "png", "bmp", "gif", "webp")
"""Of attached pictures. One with another codec is left out of the result, with a finding that names it."""

SUBTITLES = (
    *("ass", "ssa", "subrip", "webvtt", "mov_text", "text", "ttml", "dvd_subtitle", "dvb_subtitle", "xsub"),
    *("hdmv_pgs_subtitle", "hdmv_text_subtitle", "dvb_teletext", "eia_608", "arib_caption", "realtext", "sami"),
)

OTHER_DECODERS: dict[str, tuple[str, ...]] = {
    "aac": ("aac_fixed", "aac_at", "libfdk_aac"),
    "ac3": ("ac3_fixed", "ac3_at"),
    "ac4": ("libac4dec",),
    "adpcm_g722": ("g722",),
    "adpcm_g726": ("g726",),
    "adpcm_g726le": ("g726le",),
    "alac": ("alac_at",),
    "amr_nb": ("amrnb", "libopencore_amrnb"),
    "amr_wb": ("amrwb", "libopencore_amrwb"),
    "arib_caption": ("libaribb24", "libaribcaption"),
    "atrac3p": ("atrac3plus",),
    "atrac3pal": ("atrac3plusal",),
    "av1": ("libdav1d", "libaom-av1", "libgav1"),
    "avc": ("on2avc",),
    "avs2": ("libdavs2",),
    "avs3": ("libuavs3d",),
    "codec2": ("libcodec2",),
    "cscd": ("camstudio",),
    "celt": ("libcelt",),
    "dts": ("dca", "libdcadec"),
    "dvb_subtitle": ("dvbsub",),
    "dvb_teletext": ("libzvbi_teletextdec",),
    "dvd_subtitle": ("dvdsub",),
    "eac3": ("eac3_at",),
    "eia_608": ("cc_dec",),
    "evc": ("libxevd",),
    "flv1": ("flv",),
    "gsm": ("libgsm", "gsm_at"),
    "gsm_ms": ("libgsm_ms", "gsm_ms_at"),
    "h264": ("libopenh264",),
    "hdmv_pgs_subtitle": ("pgssub",),
    "ilbc": ("libilbc", "ilbc_at"),
    "jpeg2000": ("libopenjpeg",),
    "jpegxs": ("libsvtjpegxs",),
    "lc3": ("liblc3",),
    "mp1": ("mp1float", "mp1_at"),
    "mp2": ("mp2float", "mp2_at"),
    "mp3": ("mp3float", "mp3_at"),
    "mp3adu": ("mp3adufloat",),
    "mp3on4": ("mp3on4float",),
    "mp4als": ("als",),
    "mpeg2video": ("mpegvideo",),
    "mpegh_3d_audio": ("libmpeghdec",),
    "msmpeg4v3": ("msmpeg4",),
    "musepack7": ("mpc7",),
    "musepack8": ("mpc8",),
    "opus": ("libopus",),
    "ra_144": ("real_144",),
    "ra_288": ("real_288",),
    "speex": ("libspeex",),
    "subrip": ("srt",),
    "tscc": ("camtasia",),
    "ulti": ("ultimotion",),
    "vixl": ("xl",),
    "vorbis": ("libvorbis",),
    "vp8": ("libvpx",),
    "vp9": ("libvpx-vp9",),
    "vvc": ("libvvdec",),
    "webp": ("libwebp",),
}
"""Decoders whose name is not their codec's, of any build. Those of hardware are not among them: ffmpeg takes one only
where somebody asks for it."""

ACCEPTED = frozenset({*FILM, *SOUND, *COVER, *SUBTITLES})
"""Codecs, as ffmpeg's descriptors name them."""

DECODERS = tuple(sorted({name for codec in ACCEPTED for name in (codec, *OTHER_DECODERS.get(codec, ()))}))
"""What ffmpeg and PyAV may open. A name that a build does not know does no harm."""

WHITELIST = ",".join(DECODERS)
"""For ffmpeg's option `codec_whitelist`."""

UNKNOWN_CODEC = "unknown"
"""What the probe says of a stream for which it has no decoder at all."""
