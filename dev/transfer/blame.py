import pickle,numpy as np,glob
from sklearn.metrics import roc_auc_score
from dataclasses import replace
from bdbench_datamodel import evidence, transfer
from bdbench_datamodel.carried import grown,carrying
from feat import victim_of
for f in sorted(glob.glob("/work/tmp/tr/sets3/*.pkl")):
    g=pickle.load(open(f,"rb")); P=g["roles"]==1
    if not P.any() or "all-to-all" in f or "targets" in f or "untargeted" in f: continue
    auc=roc_auc_score(P,g["judged"].scores)
    if auc>.99: continue
    v=victim_of(g)
    lab=g["labels"][P][0]
    st=next(s for s in g["strongest"] if g["labels"][s.examples[0]]==lab); i=g["strongest"].index(st); aff=g["affinities"][i]; lk=g["looked"][i]
    ex=st.examples; y=P[ex]
    ci=[k for k,c in enumerate(g["classes"]) if c[0].label==lab]
    print(f.split("/")[-1][:-4],"auc %.3f p %.3f"%(auc,g["judged"].p_value),"class",lab,"poisons",y.sum(),"of",len(y),"named first:",max(g["judged"].evidence.items(),key=lambda q:q[1]))
    A=lambda z: round(roc_auc_score(y,z),2)
    from bdbench_datamodel.suspects import Suspects
    cand=[Suspects(lab,ex,st.members,st.members*1.,.9,"strongest"),Suspects(lab,ex,lk.grown.members,lk.grown.fits,lk.grown.sharpness,"grown")]
    t=transfer.turned(v.predict,g["images"],g["labels"],[cand],np.random.default_rng(0))[0]
    odds=evidence.evidence(g["classes"],g["effects"],g["transfers"],g["known"])
    print("   affinity auc",A(aff),"strongest %d/%d t %.2f"%((st.members&y).sum(),st.members.sum(),t[0]),"| grown fits",A(lk.grown.fits),"%d/%d t %.2f sharp %.2f"%((lk.grown.members&y).sum(),lk.grown.members.sum(),t[1],lk.grown.sharpness),"| otherwise",A(g["otherwise"][ex]))
    if ci:
        for q,e,tt,o in zip(g["classes"][ci[0]],g["effects"][ci[0]],g["transfers"][ci[0]],odds[ci[0]]):
            gr=grown(g["images"],q)
            print("   ",q.kind,f"{(q.members&y).sum()}/{q.members.sum()} t {tt:.2f} E {o:.1f} alone {e.alone:.1f} agree {e.agreement:.2f} expl {q.explained:.2f}", "carrygrown", None if gr is None else f"{(gr[0]&y).sum()}/{gr[0].sum()} auc {A(gr[1])}")
    X=g["images"][ex].reshape(len(ex),-1).astype(np.float32)
    F=v.features(g["images"][ex]); F=F-F.mean(0); u,s,vt=np.linalg.svd(F,full_matrices=False)
    print("    victim feature PC1-3 aucs",[max(A(u[:,k]),1-A(u[:,k])) for k in range(3)])
