/*
 * One frame, reduced to what the decisions need. Reads go through bpf_skb_load_bytes: frames may be
 * non-linear. redirector/frames.py reads the same headers in user space.
 */
#define WHOLE 0
#define FIRST 1 /* fragment with the ports */
#define LATER 2 /* fragment without */

#define MAX_EXTENSIONS 8

#define FLAG_FIN 0x01
#define FLAG_SYN 0x02
#define FLAG_RST 0x04
#define FLAG_ACK 0x10

struct packet {
    u8 source[16];
    u8 target[16];
    u32 id;      /* of the datagram, if it is a fragment */
    u32 seq;
    u32 transport; /* offset of the TCP or UDP header */
    u32 data;    /* offset of the payload of TCP */
    u32 payload; /* bytes behind the TCP or UDP header */
    u16 sport;
    u16 dport;
    u8 proto;
    u8 flags;
    u8 kind;
    u8 v6;
};

struct ports_header {
    __be16 source;
    __be16 dest;
};

static __always_inline void map_v4(u8 *to, __be32 from)
{
    __builtin_memset(to, 0, 10);
    to[10] = to[11] = 0xff;
    __builtin_memcpy(to + 12, &from, 4);
}

/* Return the offset of the transport header, 0 for what is never held. *end is the end of the datagram. */
static __always_inline u32 parse_v4(struct __sk_buff *skb, struct packet *p, u32 *end)
{
    struct iphdr ip;
    u32 start = ETH_HLEN, length;
    u16 fragment;

    if (bpf_skb_load_bytes(skb, start, &ip, sizeof(ip)))
        return 0;
    if (ip.version != 4 || ip.ihl < 5)
        return 0;
    map_v4(p->source, ip.saddr);
    map_v4(p->target, ip.daddr);
    p->proto = ip.protocol;
    length = bpf_ntohs(ip.tot_len);
    /* tot_len, not skb->len: short frames are padded. Zero is a GSO packet above 64 KB (BIG TCP). */
    *end = length ? start + length : skb->len;
    fragment = bpf_ntohs(ip.frag_off);
    if (fragment & 0x3fff) {
        p->id = bpf_ntohs(ip.id);
        p->kind = fragment & 0x1fff ? LATER : FIRST;
    }
    return start + ip.ihl * 4;
}

static __always_inline u32 parse_v6(struct __sk_buff *skb, struct packet *p, u32 *end)
{
    struct ipv6hdr ip;
    u32 at = ETH_HLEN + sizeof(ip), length;
    u8 next;
    int i;

    if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
        return 0;
    if (ip.version != 6)
        return 0;
    p->v6 = 1;
    __builtin_memcpy(p->source, &ip.saddr, 16);
    __builtin_memcpy(p->target, &ip.daddr, 16);
    length = bpf_ntohs(ip.payload_len);
    *end = length ? at + length : skb->len;
    next = ip.nexthdr;
#pragma unroll
    for (i = 0; i < MAX_EXTENSIONS; i++) {
        struct { u8 next; u8 length; __be16 offset; __be32 id; } ext;

        if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT)
            break;
        if (bpf_skb_load_bytes(skb, at, &ext, sizeof(ext)))
            return 0;
        if (next == IPPROTO_FRAGMENT) {
            u16 where = bpf_ntohs(ext.offset);

            p->id = bpf_ntohl(ext.id);
            if (where & 0xfff9) /* neither an offset nor more to come: an atomic fragment, RFC 6946 */
                p->kind = where & 0xfff8 ? LATER : FIRST;
            at += 8;
            next = ext.next;
            if (p->kind == LATER)
                break;
            continue;
        }
        at += (ext.length + 1) * 8;
        next = ext.next;
    }
    p->proto = next;
    return at;
}

/* Fill *p; return 0 when the frame is nothing that is ever held (ARP, ICMP, neighbour discovery, ..). */
static __always_inline int parse(struct __sk_buff *skb, struct packet *p)
{
    struct ports_header ports;
    u32 at, end = 0;

    if (skb->protocol == bpf_htons(ETH_P_IP))
        at = parse_v4(skb, p, &end);
    else if (skb->protocol == bpf_htons(ETH_P_IPV6))
        at = parse_v6(skb, p, &end);
    else
        return 0;
    if (!at)
        return 0;
    if (p->kind == LATER)
        return p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP || p->proto == IPPROTO_DSTOPTS;
    if (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP)
        return 0;
    if (bpf_skb_load_bytes(skb, at, &ports, sizeof(ports)))
        return 0;
    p->transport = at;
    p->sport = bpf_ntohs(ports.source);
    p->dport = bpf_ntohs(ports.dest);
    if (p->proto == IPPROTO_UDP) {
        p->payload = end - at - 8;
        return 1;
    }
    struct { __be32 seq; __be32 ack; u8 offset; u8 flags; } tcp;

    if (bpf_skb_load_bytes(skb, at + 4, &tcp, sizeof(tcp)))
        return 0;
    p->seq = bpf_ntohl(tcp.seq);
    p->flags = tcp.flags;
    at += (tcp.offset >> 4) * 4;
    p->data = at;
    p->payload = end > at ? end - at : 0;
    return 1;
}
