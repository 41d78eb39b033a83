/*
 * What the programs and the daemon share: the layout of every pinned map.
 *
 * bpf/maps.py packs and unpacks these structs; the loader refuses sizes that differ. The maps are pinned
 * below a directory named after this file's hash (MAPS), so that a new build of the programs goes on
 * with the maps of the old one, and a new layout never reads an old map.
 *
 * Ports are in host byte order, addresses are 16 bytes (IPv4 as ::ffff:a.b.c.d).
 */
#define MAX_HOLDS 4096
#define MAX_IFACES 4

/* hold.mode: how much is held, and whether the queue is being replayed. */
#define MODE_OFF 0
#define MODE_SYNS 1       /* new TCP connections to the ports */
#define MODE_EVERYTHING 2 /* every TCP and UDP frame of the pod that is not known to be a sibling's */
#define MODE_SET 3        /* the ports and connections of the image */
#define MODE_LIVE 4       /* the same of a frozen application, whose sockets live: what the kernel answers alone passes */
#define MODE_SCOPE 0x0f
#define MODE_DRAIN 0x80   /* only while frames are queued: `redirected` differs from `confirmed` */

/*
 * skb->mark inside the pod: the low half is the hold. Cleared before a frame goes on. Marks from outside do
 * not get in (veth clears them); a container that sets one on lo needs CAP_NET_RAW and cheats itself only.
 */
#define MARK_HELD 0x7a480000u   /* on its way to the TAP */
#define MARK_REPLAY 0x7a520000u /* on its way back */
#define MARK_MASK 0xffff0000u
#define MARK_CRIU 0xc114u       /* criu's own packets while it rebuilds half-closed connections */

struct port_key {
    u16 slot;
    u16 port;
    u8 proto;
    u8 pad[3];
};

struct conn_key {
    u8 local[16];
    u8 remote[16];
    u16 lport;
    u16 rport;
    u16 slot;
    u8 proto;
    u8 pad;
};

/* A network that a pod ignores; `bits` count from the slot, so that one trie serves all pods. */
struct network_key {
    u32 bits;
    u32 slot;
    u8 address[16];
};

/*
 * A kept connection as it stands in the image: what the answer to its peer is made of. Of those in `conns`.
 */
struct stream {
    u64 answered; /* when the peer last was, and when it last said what is not held: CLOCK_MONOTONIC ns */
    u64 heard;
    u32 snd_nxt;
    u32 rcv_nxt;
    u32 window;    /* bytes that the peer may send from rcv_nxt on */
    u32 tsval;     /* the clock of its timestamps (RFC 7323), which stands still until the restore */
    u8 timestamps; /* whether both sides use them */
    u8 shift;      /* of the window in a header */
    u8 settled;    /* whether the peer has acknowledged all that was sent */
    u8 pad[5];
};

struct iface {
    u32 ifindex;
    u8 mac[6];
    u8 pad[2];
};

struct pod {
    u32 holds;      /* how many of its containers hold something; 0: nothing to look up */
    u32 everything; /* the hold in MODE_EVERYTHING, or 0 */
    u32 fallback;   /* takes fragments whose first one nobody saw */
    u32 ignores;    /* whether it has entries in `networks` */
    u32 calls;      /* whether what is in `calls` is none of its business */
    u32 pad;
    u64 quarantine; /* until then (CLOCK_MONOTONIC ns) what finds no socket is dropped, not reset */
    u64 born;       /* clocks that stopped before then were another pod's */
    struct iface ifaces[MAX_IFACES];
};

struct hold {
    u32 tap; /* ifindex */
    u32 mode;
    u64 confirmed; /* frames written back or given up */
    u32 slot;
    u32 responder; /* port of a listener on lo that answers the kubelet; 0: nobody does */
};

struct counts {
    u64 redirected;
    u64 replayed;
    u64 answered; /* keepalives and the like */
};

/* activity.first: which way the first payload went. */
#define CAME 1
#define WENT 2

struct activity {
    u64 last_in; /* CLOCK_MONOTONIC ns */
    u64 last_out;
    u32 first;
    u32 pad;
};

struct talk {
    u64 last_in; /* CLOCK_MONOTONIC ns */
    u64 last_out;
};

struct frag_key {
    u8 source[16];
    u8 target[16];
    u32 id;
    u16 slot;
    u8 proto;
    u8 pad;
};

/* A connection that the kubelet has opened, as both ends see it: its own first. */
struct call_key {
    u8 source[16];
    u8 target[16];
    u16 sport;
    u16 dport;
};

struct call {
    u32 closed; /* its end of it; what the pod still sends belongs to it, a SYN does not */
    u32 hold;   /* for which somebody else answers it; 0: the application does */
};

struct name {
    u64 value[4]; /* owner's numbers, see bpf/maps.py */
    char text[96];
};

/* No preallocation where entries exist only while something sleeps. */
BPF_F_TABLE("hash:" MAPS "/pods", u32, struct pod, pods, 65536, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash:" MAPS "/ports", struct port_key, u32, ports, 65536, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash:" MAPS "/conns", struct conn_key, u32, conns, 262144, BPF_F_NO_PREALLOC);
/* Peers whose traffic is no activity; the value is their IP version, 4 or 6. */
BPF_F_TABLE("lpm_trie:" MAPS "/networks", struct network_key, u32, networks, 65536, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash:" MAPS "/streams", struct conn_key, struct stream, streams, 262144, BPF_F_NO_PREALLOC);
BPF_F_TABLE("array:" MAPS "/holds", u32, struct hold, holds, MAX_HOLDS, 0);
BPF_F_TABLE("array:" MAPS "/counts", u32, struct counts, counts, MAX_HOLDS, 0);
/* Ports that the daemon has asked for, with a busy neighbour's thousands of connections never in their way; port 0
 * stands for all those that it has not asked for, whose own clocks are kept while there is room. */
BPF_F_TABLE("hash:" MAPS "/activity", struct port_key, struct activity, activity, 65536, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lru_hash:" MAPS "/passing", struct port_key, struct activity, passing, 16384, 0);
/* Of a TCP connection since its first ping (pings.h), or since its pod's: what was no ping. Pings count in the kernel's
 * own clocks, struct tcp_info, which are enough where there are none. */
BPF_F_TABLE("lru_hash:" MAPS "/talks", struct conn_key, struct talk, talks, 16384, 0);
/* By slot: when the pod was last pinged (CLOCK_MONOTONIC ns), 1 if it has only pinged others; 0: no reason to look at
 * `talks`. */
BPF_F_TABLE("array:" MAPS "/pinged", u32, u64, pinged, 65536, 0);
BPF_F_TABLE("lru_hash:" MAPS "/frags", struct frag_key, u32, frags, 1024, 0);
BPF_F_TABLE("lru_hash:" MAPS "/calls", struct call_key, struct call, calls, 8192, 0);
/* For the daemon alone: who owns a slot, who owns a hold. */
BPF_F_TABLE("hash:" MAPS "/pod_names", u32, struct name, pod_names, 65536, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash:" MAPS "/hold_names", u32, struct name, hold_names, MAX_HOLDS, BPF_F_NO_PREALLOC);
