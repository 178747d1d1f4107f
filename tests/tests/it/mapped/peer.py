"""A destination that maps files as it is told, and reads a stream: python3 peer.py JOB [QEMU's arguments].

JOB is JSON: "maps" (file, offset, length, share, write, touch, mode, close), "channel" (pipe, fd, pair, unix),
"command" (for sh -c; FD and SOCKET in it are the number and the path of its end), "out" (file for the stream),
"leak" (another process holds the end that this one reads).
"""
import ctypes, json, os, socket, subprocess, sys

job = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
for one in job["maps"]:
    fd = os.open(one["file"], os.O_RDWR if one.get("mode") == "rw" else os.O_RDONLY)
    how = 1 if one.get("share") else 2
    use = 1 if one.get("write") is False else 3
    at = libc.mmap(None, one["length"], use, how, fd, one["offset"])
    assert at != 2 ** 64 - 1, os.strerror(ctypes.get_errno())
    for page in one.get("touch", []):
        ctypes.memset(at + page * 4096, 0xEE, 1)
    if one.get("close"):
        os.close(fd)

channel = job.get("channel", "pipe")
command = job["command"]
given = []
listener = None
if channel in ("pipe", "fd"):
    ours, theirs = os.pipe()
    given = [theirs]
    read = lambda: os.read(ours, 1 << 20)
elif channel == "pair":
    mine, other = socket.socketpair()
    ours, theirs = mine.fileno(), other.detach()
    given = [theirs]
    read = lambda: mine.recv(1 << 20)
else:
    listener = socket.socket(socket.AF_UNIX)
    path = job["out"] + ".socket"
    listener.bind(path)
    listener.listen()
    command = command.replace("SOCKET", path)
    theirs = None
if theirs is not None:
    command = command.replace("FD", str(theirs))
stdout = theirs if channel == "pipe" else subprocess.DEVNULL
leaked = subprocess.Popen(["sleep", "60"], pass_fds=[ours]) if job.get("leak") else None
child = subprocess.Popen(["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=stdout, pass_fds=given)
if theirs is not None:
    os.close(theirs)
if listener is not None:
    mine = listener.accept()[0]
    read = lambda: mine.recv(1 << 20)
with open(job["out"], "wb") as out:
    while True:
        try:
            bytes = read()
        except ConnectionResetError:
            break
        if not bytes:
            break
        out.write(bytes)
status = child.wait()
if leaked is not None:
    leaked.kill()
sys.exit(status)
